"""Trees: their format, the lint that reads them first, the interpreter that walks them on a call."""
