"""Learning: recordings, frozen encoders, world models."""

from worldmodel.core.interrupt import until_main

until_main()  # before anything large is imported
