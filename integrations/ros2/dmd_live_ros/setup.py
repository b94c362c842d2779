"""What colcon builds and installs."""

from setuptools import setup

setup(
    name="dmd_live_ros",
    version="0.2.0",
    packages=["dmd_live_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/dmd_live_ros"]),
        ("share/dmd_live_ros", ["package.xml"]),
        ("share/dmd_live_ros/launch", ["launch/dmd_live.launch.py"]),
        ("share/dmd_live_ros/config", ["config/dmd_live.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="Emotions of what people say, from words, voice and face, as ROS4HRI expressions",
    license="Apache-2.0",
    entry_points={"console_scripts": ["emotions = dmd_live_ros.node:main"]},
)
