"""DMD Live as a ROS 2 node. All modules but `node` work without ROS."""

__all__: list[str] = []
