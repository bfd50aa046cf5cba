SELECT o.id, c.name AS customer, l.line, p.sku, sl.lot_id, sup.name AS supplier, po.ordered_at, m.moved_at, e.name AS picker
  FROM sales_order o
  JOIN customer c ON c.id = o.customer_id
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
  JOIN shipment_line sl ON sl.order_id = l.order_id AND sl.line = l.line
  JOIN lot ON lot.id = sl.lot_id
  JOIN purchase_order po ON po.id = lot.purchase_order_id
  JOIN supplier sup ON sup.id = po.supplier_id
  JOIN movement m ON m.order_id = l.order_id AND m.line = l.line AND m.lot_id = sl.lot_id
  JOIN employee e ON e.id = m.employee_id
 WHERE o.id = :order
 ORDER BY l.line, sl.lot_id, m.id
