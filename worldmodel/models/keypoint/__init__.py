"""The keypoint family: a state of keypoints and their appearance on frozen features."""
