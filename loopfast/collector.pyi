# What Python code may know of the view of the garbage collector: nothing.
