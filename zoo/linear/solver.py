from zoo.linear.principal import PrincipalAxes, principal_axes  # noqa: F401
