"""Start the node with a file of parameters: `ros2 launch dmd_live_ros dmd_live.launch.py`."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

__all__ = ["generate_launch_description"]


def generate_launch_description() -> LaunchDescription:
    """The node `emotions`; it configures and activates itself (parameter `autostart`)."""
    share = get_package_share_directory("dmd_live_ros")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=os.path.join(share, "config", "dmd_live.yaml"),
                description="parameters of the node",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="before all names"),
            LifecycleNode(
                package="dmd_live_ros",
                executable="emotions",
                name="emotions",
                namespace=LaunchConfiguration("namespace"),
                parameters=[LaunchConfiguration("params_file")],
                output="screen",
            ),
        ]
    )
