"""Half an hour of churn between four daemons in a lab of network namespaces: `make soak` (root)."""
