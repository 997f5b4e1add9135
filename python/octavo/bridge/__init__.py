"""Models of other libraries, through their own exporters. Import the module that is needed."""
