"""The revisions, oldest first by name. A revision that was released is never changed."""
