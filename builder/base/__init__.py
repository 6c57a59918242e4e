"""What every room stands on: errors, tensors, versions of this machine; files, texts, processes."""
