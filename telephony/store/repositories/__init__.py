"""One repository per table: records in, records out. They never begin or end a transaction."""
