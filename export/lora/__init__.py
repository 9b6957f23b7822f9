"""LoRAs merged into the experts of a checkpoint, before anything is exported. The result is a checkpoint beside it.

A file is read (`lora_file`), its names are understood (`key_formats`, `module_names`), all of it is checked against the
expert (`changes`, `complaints`), and only then shards are written (`merge`, `folder`).
"""
