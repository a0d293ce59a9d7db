"""What the robot and its motions are."""
