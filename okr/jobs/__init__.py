"""Work that takes long: kept on disk piece by piece, shared by processes, logged."""
