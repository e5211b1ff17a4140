"""What a dataset is handed on as: squashfs, PNGs by language, Croissant, the viewer."""
