from .levels import model_for as model_for
from .names import calculator_name as calculator_name
from .potentials import M3GNET_POTENTIAL as M3GNET_POTENTIAL
from .potentials import M3GNET_VARIABLE as M3GNET_VARIABLE
from .potentials import TENSORNET_POTENTIAL as TENSORNET_POTENTIAL
from .potentials import TENSORNET_VARIABLE as TENSORNET_VARIABLE
from .registry import get_calculator as get_calculator
