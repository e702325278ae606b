"""What runs inside an instance, on the tenant's side: it is handed descriptors and trusts nothing else."""
