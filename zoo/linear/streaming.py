from zoo.linear.stream import RowReader as Rows  # noqa: F401
