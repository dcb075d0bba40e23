"""Learning-rate schedules: each file registers one; a schedule is a factor of the peak learning rate per step."""
