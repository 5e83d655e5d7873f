from .choice import choose as choose
from .choice import value_of as value_of
from .rounds import learn as learn
from .settings import LearnSettings as LearnSettings
from .settings import Round as Round
from .settings import read_rounds as read_rounds
