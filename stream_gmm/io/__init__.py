"""Bytes <-> core values: Parquet in, scored Parquet and model files out. Only here is pyarrow."""
