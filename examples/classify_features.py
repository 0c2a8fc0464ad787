"""Classify videos by features of a frozen encoder: python examples/classify_features.py FEATURES

The videos lie in one folder for each class, as in `videos/push/0001.mp4` and `videos/lift/0001.mp4`. Their features
come from `wm features data=videos/ encoder_from=... rows.per=clip out=FEATURES`. Nothing of this project is needed to
read them.
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

STEPS, HELD_OUT = 300, 3  # steps of the training; one of so many videos of each class is held out


def read(folder):
    """Features `[R, D]`, the number of the video of every row `[R]`, and the class of every video."""
    index = json.loads((folder / "index.json").read_text())
    shards = [load_file(folder / shard["file"]) for shard in index["shards"]]
    features = torch.cat([shard["features"].float() for shard in shards])
    if features.ndim == 3:  # written with rows.pool=none
        features = features.mean(1)
    with (folder / "items.csv").open(newline="") as file:
        classes = [Path(row["name"]).parent.name for row in csv.DictReader(file)]
    return features, torch.cat([shard["item"] for shard in shards]).long(), classes


def classify(folder):
    """The share of held-out videos that are classified correctly."""
    features, video, classes = read(folder)
    names = sorted(set(classes))
    label = torch.tensor([names.index(name) for name in classes])
    number = torch.empty(len(classes), dtype=torch.long)
    for of_class in range(len(names)):
        number[label == of_class] = torch.arange(int((label == of_class).sum()))
    held_out = number % HELD_OUT == HELD_OUT - 1  # videos and not rows, since rows of one video are alike
    train = ~held_out[video]
    features = (features - features[train].mean(0)) / features[train].std(0).clamp_min(1e-6)

    torch.manual_seed(0)
    classifier = torch.nn.Linear(features.shape[1], len(names))
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(classifier(features[train]), label[video[train]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    with torch.no_grad():  # all rows of a video vote
        votes = torch.zeros(len(classes), len(names)).index_add_(0, video, classifier(features).softmax(-1))
    right = votes.argmax(-1)[held_out] == label[held_out]
    print(f"{int(right.sum())} of {len(right)} held-out videos are classified correctly ({features.shape[1]} features)")
    print(f"the largest class has {int(label[held_out].bincount().max())} of them: {', '.join(names)}")
    return float(right.float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    classify(parser.parse_args().features)
