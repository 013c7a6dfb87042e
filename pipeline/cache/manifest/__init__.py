"""Documents of a store: records, plans, receipts, identity, Zarr metadata."""
