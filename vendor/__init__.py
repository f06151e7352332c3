"""Supply of libuv: which release (libuv.toml), where it comes from (fetch.py), how it is compiled (build.py)."""
