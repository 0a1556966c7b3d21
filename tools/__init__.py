"""Set-up and upkeep tools of the repository; none of them is part of the wheel."""
