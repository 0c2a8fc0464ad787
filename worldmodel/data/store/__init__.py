"""The trajectory store. Writers lose nothing that was committed, and readers notice all damage."""
