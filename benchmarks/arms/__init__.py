"""What is compared: ours, and the peers. Each arm trains in a process of its own until its clock ends it."""
