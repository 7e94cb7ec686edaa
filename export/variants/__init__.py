"""One module for each form in which a bundle carries the model; made at export, never imported on an edge device."""
