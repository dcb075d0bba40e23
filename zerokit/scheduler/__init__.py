"""Learning-rate schedules: each file registers one; a schedule gives the rates of every step, counted from 0."""
