"""The actions of ``rgbt data``, one module each: ``configure(parser)`` and ``run(args)``."""
