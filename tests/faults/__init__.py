"""What may go wrong around a study: killed processes, servers that go away, full disks, damaged images."""
