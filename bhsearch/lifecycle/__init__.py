"""What can be done with a study after its search: report, reproduce, register, predict."""
