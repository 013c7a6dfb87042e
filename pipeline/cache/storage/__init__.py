"""Access to the bytes of a store on the local disk or in object storage."""
