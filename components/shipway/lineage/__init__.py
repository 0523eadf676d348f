"""What every stage needs to be traceable: digests, safe metadata, atomic files, step records, the project folder."""
