"""The live view of runs, drawn from the files of their folders."""
