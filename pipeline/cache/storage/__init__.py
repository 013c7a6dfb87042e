"""Reading and writing where the bytes of a store lie: local disk or object storage."""
