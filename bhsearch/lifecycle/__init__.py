"""Operations on a finished study: report, reproduce, register, predict."""
