"""Acting: a controller that plans with a world model, and its evaluation."""

from worldmodel.core.interrupt import until_main

until_main()  # before anything large is imported
