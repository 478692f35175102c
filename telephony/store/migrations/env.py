"""Runs the revisions on the connection that `telephony.store.migrate` hands over.

What it never does: open a connection, begin or commit; the caller's transaction holds it all.
"""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=False)
context.run_migrations()
