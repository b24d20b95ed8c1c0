"""The only package that imports ray: each stage read, mapped and written on a cluster."""
