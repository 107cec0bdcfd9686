"""Reports: records to figures, tables and one page."""
