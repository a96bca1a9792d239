"""What recipes share: options and stages around the training that is a method's own."""
