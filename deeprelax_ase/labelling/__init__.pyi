from .forces import PointSettings as PointSettings
from .forces import forces_in_processes as forces_in_processes
from .forces import known_forces as known_forces
from .forces import label_forces as label_forces
from .forces import points as points
from .forces import write_forces as write_forces
