"""What happens to a study afterwards: report, reproduce, register, predict."""
