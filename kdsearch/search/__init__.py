"""The search: what to run next, when to stop it, and how Ray runs it. Only this package imports ray."""
