"""The networks: operations, stems, encoder-decoder. Nothing here reads a file or knows a data set."""
