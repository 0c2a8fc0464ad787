"""The keypoint family: its state has keypoints of frozen features and an appearance embedding."""
