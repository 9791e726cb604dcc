"""The standalone client: an installable package for code that talks to the server over HTTP."""
