"""Places for jobs: each store, in each mode."""

from tests.life.conftest import evicted as evicted
from tests.life.conftest import mode as mode
from tests.life.conftest import patience as patience
from tests.life.conftest import place as place
from tests.runtime.conftest import store_url as store_url
from tests.runtime.conftest import toy as toy
