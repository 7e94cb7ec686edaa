"""The two-branch model and how it learns; speaks tensors and knows nothing of files of pictures."""
