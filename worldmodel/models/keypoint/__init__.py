"""The keypoint family. Its state has keypoints of frozen features and an appearance embedding."""
