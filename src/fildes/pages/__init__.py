"""What the files of a static site say about itself: publish checks it, static obeys it. No I/O."""
