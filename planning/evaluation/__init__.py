"""Success rates: manifests, episodes, reports, comparisons."""
